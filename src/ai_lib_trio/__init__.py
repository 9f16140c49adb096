"""The AI-Protocol runtime for trio."""
