"""The comparison of what runs left: statistics, the screens that show runs, and the calibration of the bench.

It reads records and never imports a trainer, so results can be looked at where no run could have been made.
"""
