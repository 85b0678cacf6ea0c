"""How the registry's database changed from release to release, for Alembic; run when a registry is opened."""
