"""The commands `migrate` (move.py) and `migratectl` (ctl.py)."""
