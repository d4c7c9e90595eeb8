"""Makes pipeline/golden.mp4, the clip that every encoder is asked about when a run starts.

Usage: make_golden.py OUT. The file in the repository is the truth: another libx264 gives other
bytes, and stores made before would then be refused.
"""

import sys

import av
import numpy as np

WIDTH, HEIGHT, NUM_FRAMES = 448, 336, 3


def picture(number: int) -> np.ndarray:
    """Colours over all of RGB, edges at all angles, and detail that a resize has to average."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    red = 127 + 120 * np.sin(x / 23 + number)
    green = 127 + 120 * np.sin(y / 17 - number)
    blue = 127 + 120 * np.sin((x + y) / 41)
    image = np.stack([red, green, blue], axis=-1)
    radius = np.hypot(x - WIDTH / 2, y - HEIGHT / 2)
    image[radius < 90] = [230, 40, 20]
    rings = (radius > 100) & (radius < 150) & (np.floor(radius / 2) % 2 == 0)
    image[rings] = 255
    checks = (x > 330) & (y > 240) & ((np.floor(x) + np.floor(y)) % 2 == 0)
    image[checks] = [0, 0, 160]
    image[20:60, 30 + 20 * number : 110 + 20 * number] = [250, 220, 0]
    return image.clip(0, 255).astype(np.uint8)


def main() -> None:
    """Writes the clip."""
    with av.open(sys.argv[1], "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryslow", "crf": "32", "bf": "1", "threads": "1"}
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
