"""How the processes of a run begin."""
