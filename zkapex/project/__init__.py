"""A project of a researcher's or engineer's own, as ``zkapex new`` makes it from ``template/``."""
