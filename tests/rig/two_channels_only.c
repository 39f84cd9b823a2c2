/* A microphone that opens only with two channels, as some USB interfaces do. Loaded with LD_PRELOAD,
   this stands between PyAudio and PortAudio, and refuses every other number of channels. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <portaudio.h>

typedef PaError OpenStream(PaStream **, const PaStreamParameters *, const PaStreamParameters *,
                           double, unsigned long, PaStreamFlags, PaStreamCallback *, void *);

PaError Pa_OpenStream(PaStream **stream, const PaStreamParameters *input,
                      const PaStreamParameters *output, double rate, unsigned long frames,
                      PaStreamFlags flags, PaStreamCallback *callback, void *data) {
  if (input && input->channelCount != 2) return paInvalidChannelCount;
  void *portaudio = dlopen("libportaudio.so.2", RTLD_NOW | RTLD_LOCAL);
  OpenStream *open_stream = (OpenStream *)dlsym(portaudio, "Pa_OpenStream");
  return open_stream(stream, input, output, rate, frames, flags, callback, data);
}
