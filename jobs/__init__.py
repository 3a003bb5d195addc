"""Entry points for `ray job submit`, one for each verb of the command line."""
