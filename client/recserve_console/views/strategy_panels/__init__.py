"""Panels of the view of the strategies."""
