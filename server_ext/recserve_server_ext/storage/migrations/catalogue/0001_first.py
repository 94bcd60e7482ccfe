"""The first schema: a new store gets its tables from `recserve_server_ext.catalogue.tables`, and begins here."""

revision = "0001"
down_revision = None
