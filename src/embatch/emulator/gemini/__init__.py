"""The Gemini Developer API's side of the wire."""
