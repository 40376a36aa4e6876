"""The engine: takes jobs, runs them, hands in how they ended."""
