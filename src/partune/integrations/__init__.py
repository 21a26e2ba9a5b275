"""Use partune with other systems. A module that imports a system is named after it; `tracking` joins the trackers."""
