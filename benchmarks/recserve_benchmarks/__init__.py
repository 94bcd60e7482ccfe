"""Speed, load and quality measurements, their reports and plots."""
