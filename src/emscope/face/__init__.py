"""The Python face: what `import emscope as em` gives, each name thin over the library."""
