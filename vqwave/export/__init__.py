"""Models for elsewhere: ONNX graphs that are checked against PyTorch before they are kept, and
folders that stand alone.

A graph is one pass, so a decoder must be a student: a WaveNet's loop over samples is no graph.
Lengths and batch are free.

| part | inputs | output |
|---|---|---|
| decoder | codes (B, Q, F) or frames (B, D, F), noise (B, T), labels (B,), vectors | wave (B, T) |
| encoder | wave (B, T) of the model's level, without DC | codes (B, Q, F) |
| pitch | contour (B, 2, N ratio), its lengths (B,), voice_pitch (B, 2) | pitch_codes (B, Q_p, N) |

T = F hop samples; codes and labels are int64. A decoder with melody takes pitch_codes (B, Q_p, N),
too, which cover T, and decodes them in the range of its speaker; a model without speakers
takes the range, voice_pitch (B, 2).
"""

from vqwave.export.folder import export_folder
from vqwave.export.graphs import (
    DecoderGraph,
    EncoderGraph,
    PitchGraph,
    decoder_graph,
    encoder_graph,
    pitch_graph,
)
from vqwave.export.onnx_files import (
    CHECKED,
    Checked,
    Part,
    export_onnx,
    open_session,
    run_onnx,
    run_session,
    trace,
)

__all__ = [
    "CHECKED",
    "Checked",
    "DecoderGraph",
    "EncoderGraph",
    "Part",
    "PitchGraph",
    "decoder_graph",
    "encoder_graph",
    "export_folder",
    "export_onnx",
    "open_session",
    "pitch_graph",
    "run_onnx",
    "run_session",
    "trace",
]
