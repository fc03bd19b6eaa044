"""The only package that touches ctypes or a llama.cpp pointer.

Above it there are models, vocabularies, contexts and samplers of Python values; inside it llama.h's own names are used.
"""
