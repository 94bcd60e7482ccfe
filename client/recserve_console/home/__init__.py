"""What the console reads from the home that it is opened beside."""
