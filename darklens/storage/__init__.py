"""Files that are whole or not there: checkpoints, records, run folders."""
