"""The side of tf_blurdiff, see protocol.py. Its own command: export a model for the side of the SavedModel."""

import os

import protocol


def export(size, precision, folder):
    """Writes a SavedModel of `SAMPLING_STEPS` deterministic steps; says where it is and what its tensors are called."""
    import blurdiff_work
    from sizes import SAMPLING_STEPS, SIZES
    from tensorflow.core.protobuf import saved_model_pb2

    import tf_blurdiff as bd

    model = blurdiff_work.make_model(SIZES[size], precision)
    path = bd.export_savedmodel(model, folder, num_steps=SAMPLING_STEPS, sampler="ddim")
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    parameters = model.network.count_params()
    names = {"seed": signature.inputs["seed"].name, "image": signature.outputs["image"].name}
    return {"export_dir": str(path), "parameters": parameters, **names}


def main():
    """Imports after standard output is out of the libraries' reach."""
    answers = protocol.take_stdout()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import blurdiff_work

    protocol.Conversation(answers, blurdiff_work.make_action, export=export).hold()


if __name__ == "__main__":
    main()
