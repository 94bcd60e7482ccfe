"""The views of the console, a module each, and the pieces they share."""
