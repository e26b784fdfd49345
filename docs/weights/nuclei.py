"""Train `nuclei.safetensors`, the weights of the README's example: `python docs/weights/nuclei.py`,
some minutes.

`unet-small` at half its widths, so that the file is small. The left half of docs/images/nuclei.png
is for training; the right half is not seen.
"""

from pathlib import Path

import numpy as np
import segtwin
import segtwin_torch
import segtwin_weights
import torch
from PIL import Image
from segtwin.architectures import get_architecture

HERE = Path(__file__).parent
IMAGES = HERE.parent / "images"
STEPS, SIDE = 600, 128
WIDTHS = (4, 8, 16, 32, 64)

model = segtwin_torch.build("unet-small", widths=WIDTHS, logits=True, seed=1).train()
image = segtwin.preprocess(IMAGES / "nuclei.png", "unet-small")[0]  # 1×512×512, 0..1
nucleus = np.asarray(Image.open(IMAGES / "nuclei_instances.png"))[np.newaxis] > 0
pair = np.concatenate([image, nucleus.astype(np.float32)])  # 2×512×512

random = np.random.default_rng(0)
torch.manual_seed(0)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, STEPS)
for _ in range(STEPS):
    crops = []
    for _ in range(4):
        top, left = random.integers(0, 512 - SIDE + 1), random.integers(0, 256 - SIDE + 1)
        crop = np.rot90(pair[:, top : top + SIDE, left : left + SIDE], random.integers(4), axes=(1, 2))
        crops.append(crop[..., :: random.choice([-1, 1])])
    data, target = torch.from_numpy(np.stack(crops)).split(1, dim=1)
    data = data * float(random.uniform(0.7, 1.4))  # of other exposures
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(data), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

with torch.inference_mode():
    found = model.eval()(torch.from_numpy(image[np.newaxis, :, :, 256:])).numpy()[0, 0] > 0
wanted = nucleus[0, :, 256:]
print(
    f"loss {loss.item():.3f}; intersection over union on the right half "
    f"{(found & wanted).sum() / (found | wanted).sum():.3f}"
)

weights = segtwin_torch.read_weights(model)
weights.metadata |= {
    "preprocessing": get_architecture("unet-small").preprocessing.asdict(),
    "classes": ["background", "nucleus"],
    "palette": [[0, 0, 0], [255, 120, 0]],
    "source": "docs/weights/nuclei.py on docs/images/nuclei.png (BBBC038, CC0)",
}
segtwin_weights.write(weights, HERE / "nuclei.safetensors")
