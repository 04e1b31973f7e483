"""Sparse features of one block: capture tokens, train or load an autoencoder, and see what a direction is made of."""
