"""The inference engines: one picture in, one raw logit out."""
