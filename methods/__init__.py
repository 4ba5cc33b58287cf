"""Methods: signals, drivers, the stages that they share, and one folder per named method."""
