"""Language models over HTTP, for programs that speak OpenAI's protocol: `edge serve`."""
