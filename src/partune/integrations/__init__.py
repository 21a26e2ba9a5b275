"""partune inside other systems; each module loads the system it is named after."""
