"""Space of this metric: inputs as JSON in, result as JSON out."""

import json
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr

HERE = Path(__file__).parent
MODULE = HERE / "accuracy.py"
EXAMPLE = {"predictions": [0, 2, 1, 1], "references": [0, 1, 1, 1]}


def compute(inputs: str) -> Any:
    """The metric's result for a JSON object with its inputs.

    Raises:
        gr.Error: not JSON, or inputs that the metric refuses.
    """
    # Loaded for each request: after refused inputs a module would keep a part of them.
    metric = evaluate.load(str(MODULE))
    try:
        return metric.compute(**json.loads(inputs))
    except (KeyError, TypeError, ValueError) as error:
        raise gr.Error(str(error)) from error


with gr.Blocks(title=MODULE.stem, analytics_enabled=False) as demo:
    front_matter, text = (HERE / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)
    gr.Markdown(text)
    inputs = gr.Code(json.dumps(EXAMPLE, indent=2), language="json", label="Inputs")
    result = gr.JSON(label="Result")
    gr.Button("Compute", variant="primary").click(compute, inputs, result, api_name="compute")

if __name__ == "__main__":
    demo.launch(enable_monitoring=False)
