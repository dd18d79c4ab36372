"""The steps of a migration, one module each, in the order of migrate/coordinator.py."""
