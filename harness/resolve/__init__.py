"""From names and settings to what a run is made of: layers of settings, targets, models, this machine, stages."""
