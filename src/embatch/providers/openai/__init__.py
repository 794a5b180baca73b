"""OpenAI, Azure OpenAI and every server that speaks their protocol, through the openai library."""
