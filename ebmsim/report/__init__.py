"""What people read: tables, derivations, drawings."""
