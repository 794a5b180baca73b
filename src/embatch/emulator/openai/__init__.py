"""The OpenAI API's side of the wire."""
