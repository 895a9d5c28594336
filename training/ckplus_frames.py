"""CK+ as it is given out -> folders of frames by class, as recipes/ckplus.yaml wants them:

    python training/ckplus_frames.py cohn-kanade-images Emotion ckplus

Of each sequence that has an emotion label, the last two frames go to its class, and the first goes
to `neutral` (section 5.2 of the thesis). Frames are copied whole and keep their names.
"""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path

# As CK+'s own notes number them. No sequence is labelled 0.
CLASSES = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
LAST_FRAMES = 2


def lay_out(images: Path, emotions: Path, output: Path) -> Counter[str]:
    """Copy the frames and count them by class.

    Args:
        images: `S005/001/S005_001_00000001.png` and so on.
        emotions: `S005/001/S005_001_00000011_emotion.txt` and so on, one number in each; a sequence
            without such a file is left out.
        output: new folder.

    Raises:
        FileExistsError: `output` exists.
        ValueError: no labels, a number that is no class, or a labelled sequence of fewer than three
            frames.
    """
    labels = sorted(emotions.rglob("*_emotion.txt"))
    if not labels:
        raise ValueError(f"{emotions} must hold files *_emotion.txt, got none")
    chosen: list[tuple[str, Path]] = []
    for label in labels:
        number = float(label.read_text(encoding="ascii"))
        if number not in range(1, len(CLASSES)):
            raise ValueError(f"{label}: a label must be in 1 to {len(CLASSES) - 1}, got {number}")
        frames = sorted((images / label.parent.relative_to(emotions)).glob("*.png"))
        if len(frames) <= LAST_FRAMES:
            raise ValueError(
                f"{label}: at least {LAST_FRAMES + 1} frames needed, got {len(frames)}"
            )
        chosen.append(("neutral", frames[0]))
        chosen += [(CLASSES[int(number)], frame) for frame in frames[-LAST_FRAMES:]]
    output.mkdir(parents=True)
    for name, frame in chosen:
        (output / name).mkdir(exist_ok=True)
        shutil.copyfile(frame, output / name / frame.name)
    return Counter(name for name, _ in chosen)


def main() -> int:
    """Command line: see `python training/ckplus_frames.py --help`."""
    parser = argparse.ArgumentParser(description="Lay out CK+ in folders of frames by class.")
    parser.add_argument("images", type=Path, help="the folder cohn-kanade-images")
    parser.add_argument("emotions", type=Path, help="the folder Emotion")
    parser.add_argument("output", type=Path, help="new folder")
    options = parser.parse_args()
    try:
        counts = lay_out(options.images, options.emotions, options.output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in sorted(counts):
        print(f"{name:10} {counts[name]:5}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
