"""Runs one store's migrations on the connection it is handed; see `recserve_server_ext.storage.database`."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
