"""A page without a server: a static folder that encodes and decodes in a browser.

`site` writes the folder, `runtime` fetches the WebAssembly build of onnxruntime. The page is
`page.html` with `page.css` and the scripts put into it, so that the folder has one HTML file:

| script | content |
|---|---|
| `noise.js` | Philox and the student's noise, number by number that of `vqwave.rng` |
| `sound.js` | microphone, files, level, WAV |
| `codes.js` | `.vqw` files |
| `melody.js` | F0 of SwiftF0 as a contour, and the range of a voice |
| `graphs.js` | the ONNX graphs: recording -> codes -> waveform |
| `page.js` | what is seen and pressed |
"""

from vqwave.export.web.site import Site, export_site

__all__ = ["Site", "export_site"]
