"""The side of diffusers and PyTorch, see protocol.py."""

import protocol


def main():
    """Imports after standard output is out of the libraries' reach."""
    answers = protocol.take_stdout()
    import diffusers_work

    protocol.Conversation(answers, diffusers_work.make_action).hold()


if __name__ == "__main__":
    main()
