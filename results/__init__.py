"""What runs left, compared: statistics, the screens that show runs, and the calibration of the bench.

It reads records and never imports a trainer, so that results can be looked at on a machine that could not have made them.
"""
