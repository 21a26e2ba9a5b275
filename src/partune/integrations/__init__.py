"""Use partune inside other systems. Each module is named after the system that it imports."""
