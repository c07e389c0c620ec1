"""Hard cases: small models, each of which hides its activations or norms in one particular way."""
