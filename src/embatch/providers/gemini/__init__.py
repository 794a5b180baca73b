"""Gemini through google-genai, on the Developer API and, for synchronous calls, on Vertex AI."""
