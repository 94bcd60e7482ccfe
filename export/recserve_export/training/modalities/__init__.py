"""Item vectors from pictures, recordings and knowledge graphs, as spaces beside the text."""
