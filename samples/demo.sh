#!/bin/sh
# Starts the service, lets two lessons hear samples/speech.wav, and stops it again.
# Ends with status 0 only if both heard every word of samples/speech.txt.
# Usage: sh samples/demo.sh PYTHON
python=$1
folder=$(mktemp -d)

HOST=127.0.0.1 PORT=8000 "$python" fastapi_example.py &
service=$!
trap '{ kill $service; wait $service; } 2>/dev/null; rm -r "$folder"' EXIT
trap 'exit 130' INT TERM # which then does what EXIT says; sh alone would not

export SERVICE_URL=http://127.0.0.1:8000
export WEBSOCKET_URL="ws://127.0.0.1:8000/v1/realtime?intent=transcription"
until "$python" -c "import socket; socket.create_connection(('127.0.0.1', 8000))" 2>/dev/null; do
  kill -0 $service || exit 1 # it has said why
  sleep 0.2
done

run() {
  printf '\n$ python %s\n' "$*"
  "$python" "$@" | tee -i "$folder/heard"
  while read -r phrase; do
    grep -qF "$phrase" "$folder/heard" || { echo "Not heard: $phrase" && exit 1; }
  done <samples/speech.txt
}

run simple_transcription_test.py --file samples/speech.wav
run simple_audio_transcription.py --file samples/speech.wav
printf '\nBoth lessons heard every word of samples/speech.txt.\n'
