"""Codecs, one file per published system; `registry` says which there are without loading any."""
