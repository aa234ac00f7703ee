"""Integer networks that give the same numbers on every machine (SPEC.md, "Integer nets").

`layers` holds the integer layers and their arithmetic, `paths` the ways of running them and the checks that
choose one, `trainable` the float twins with fake quantisation, and the conversion of a trained twin into an
integer layer.
"""
