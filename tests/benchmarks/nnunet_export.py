"""What one scan costs nnU-Net stage by stage, and its export alone; runs in nnU-Net's environment.

    ENV/bin/python tests/benchmarks/nnunet_export.py MODEL SCAN OUT [--device cpu] [--enough 20]

MODEL is nnU-Net's folder of a trained model, SCAN one file of one channel. Read and prepared, predicted (step 0.5, no
mirroring) and exported once on one core and once on all, each by nnU-Net's own functions: the best of up to three
within `--enough` seconds. OUT gets `logits.npy` (L, Z, Y, X), `shape.json` and `labels.npy` for the other tool, and
`told.json` with the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def best_of(work: Callable[[], Any], enough_s: float) -> tuple[float, Any]:
    """The least seconds of up to three runs, no new one after `enough_s`, and what the last returned."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < enough_s:
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--enough", type=float, default=20.0)
    asked = parser.parse_args()
    began = time.perf_counter()
    import numpy as np
    import torch
    from nnunetv2.inference import export_prediction, predict_from_raw_data

    device = torch.device(asked.device)
    told: dict[str, Any] = {"import_s": time.perf_counter() - began}
    predictor = predict_from_raw_data.nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(asked.model), (0,))
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    began = time.perf_counter()
    preprocessor = configuration.preprocessor_class()
    image, _, properties = preprocessor.run_case([str(asked.scan)], None, plans, configuration, predictor.dataset_json)
    told["read_and_prepare_s"] = time.perf_counter() - began
    began = time.perf_counter()
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image)).cpu().numpy()
    told["network_s"] = time.perf_counter() - began
    asked.out.mkdir(parents=True, exist_ok=True)
    np.save(asked.out / "logits.npy", logits)
    (asked.out / "shape.json").write_text(json.dumps([int(n) for n in properties["shape_before_cropping"]]))
    every = sorted(os.sched_getaffinity(0))
    for cores in sorted({1, len(every)}):
        os.sched_setaffinity(0, every[:cores])

        def export(threads: int = cores) -> Any:
            return export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, predictor.label_manager, properties, num_threads_torch=threads
            )

        told[f"export_s_on_{cores}"], labels = best_of(export, asked.enough)
    np.save(asked.out / "labels.npy", labels)
    (asked.out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
