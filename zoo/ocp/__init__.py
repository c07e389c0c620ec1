"""Energy models of molecules and surfaces, with the neighbour graphs they need."""
