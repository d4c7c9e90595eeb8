"""A made world: captioned videos with known answers, from a seed."""
