"""Models of other projects, brought here unchanged in what they compute.

| project | file | becomes | mel |
|---|---|---|---|
| lmnt-com/diffwave | `weights.pt` | a vocoder of any size | `lmnt`, or as its `params` say |
| lmnt-com/diffwave, `unconditional` | `weights.pt` | a generator | |
| philsyn/DiffWave-Vocoder | `1000000.pkl` and the like | a vocoder, 64 or 128 channels or any | `tacotron2` |
| philsyn/DiffWave-unconditional | `1000000.pkl` and the like | a generator of one-second clips, 16 kHz | |

Files are read as plain tensors: one that holds code is refused, and none of it runs.
"""

from audiodiff.interop.convert import Converted, convert_checkpoint, convert_state_dict, published_base_config
from audiodiff.interop.foreign import CheckpointMetadata

__all__ = ["CheckpointMetadata", "Converted", "convert_checkpoint", "convert_state_dict", "published_base_config"]
