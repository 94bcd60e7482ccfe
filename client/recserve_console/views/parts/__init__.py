"""Pieces that several views are built from."""
