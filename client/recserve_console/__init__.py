"""The console of recserve: one page in a browser that shows a running server and tries it out."""
