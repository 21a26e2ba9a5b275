"""Files that train a study's winner again with other tools."""
