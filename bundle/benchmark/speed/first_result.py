"""Process that computes its first anomaly map; run by its path, so that it imports what a user's process imports.

Reads {"config": merged configs, "image_size": pixels} from standard input, and writes the seconds of each step.
"""

import json
import sys
import time

STARTED = time.perf_counter()


def main() -> None:
    """Imports, builds the network and computes the anomaly map of one image."""
    asked = json.load(sys.stdin)
    import torch
    from monai.bundle import ConfigParser

    imported = time.perf_counter()
    config = asked["config"]
    teachers = ("local_teacher", "global_teacher", "levels")
    names = ("bundle_root", "device", *teachers, "network_def", "network")
    parser = ConfigParser({name: config[name] for name in names})
    network = parser.get_parsed_content("network").eval()
    built = time.perf_counter()
    with torch.no_grad():
        size = asked["image_size"]
        anomaly_map = network(torch.rand(1, 3, size, size).to(parser.get_parsed_content("device"))).cpu()
    done = time.perf_counter()
    if anomaly_map.shape != (1, 1, size, size):
        raise RuntimeError(f"The map is {tuple(anomaly_map.shape)}.")
    steps = {"import": imported - STARTED, "build": built - imported, "first_map": done - built}
    print(json.dumps(steps), flush=True)


if __name__ == "__main__":
    main()
