"""`python -m tf_blurdiff` is the command `tf_blurdiff`."""

import tf_blurdiff_command

if __name__ == "__main__":
    tf_blurdiff_command.main()
