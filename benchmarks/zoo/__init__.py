"""Real data sets, triggers and networks from which the fixtures and the tables are made."""
